"""From the lines of a reply to an answer: complete, or an error that says why not."""
