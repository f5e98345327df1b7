"""The lake: write-once Parquet files of everything the gateways sent."""
