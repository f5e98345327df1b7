"""Grafana boards and alert rules, generated from signals, and their publishing."""
