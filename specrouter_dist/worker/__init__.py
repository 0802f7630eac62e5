"""One device, one engine thread, one or more members: where stages, engines and links meet."""
