"""The fleet: gateways, assets, advisories and what maintenance found."""
