"""Training: from a fleet's observations and failures to a signed bundle and the decision whether it may be released."""
