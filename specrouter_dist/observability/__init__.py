"""What a process tells of itself to those who watch: its log, and spans of its requests."""
