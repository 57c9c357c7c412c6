"""Many questions to one or more daemons, each answer committed once."""
