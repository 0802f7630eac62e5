"""Generated from protos/specrouter/v1/link.proto; a test compares them."""
