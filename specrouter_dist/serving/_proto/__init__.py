"""Generated from protos/specrouter/v1/service.proto by protos/generate.sh; a test compares them."""
