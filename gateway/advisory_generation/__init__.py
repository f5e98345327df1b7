"""Block six: from states, health and prognoses to one advisory for each maintenance problem."""
