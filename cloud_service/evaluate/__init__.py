"""``wearsight-cloud evaluate``: our models on public data sets and on yours, by a protocol that sees no test label."""
