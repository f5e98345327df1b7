"""Pages of the journal once more, from any position: through condition monitoring, or into the historian."""
