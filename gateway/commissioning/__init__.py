"""Getting a gateway to know its machines: find tags, choose them, check them, take them home and play them again."""
