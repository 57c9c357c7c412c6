"""Every loss, and the weighted sum of them that a step minimises."""
