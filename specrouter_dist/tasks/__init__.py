"""What a prompt is about: token ids in, one of the tasks that were found in a pool's traffic out."""
