"""The slots that hold signed model releases on a gateway."""
