"""The fleet: gathers what gateways send, trains models for all, and puts them back."""
