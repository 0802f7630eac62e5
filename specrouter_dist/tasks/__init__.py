"""What a prompt is about: token ids in, one of the tasks found in a pool's traffic out."""
