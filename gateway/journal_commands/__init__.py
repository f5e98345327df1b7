"""``wearsight-gateway journal …``: a journal looked at from outside, checked, taken out of, repaired."""
