"""What a checkpoint says and answers, in numbers that a daemon can be held against."""
