"""What all commands share: arguments, messages, errors and files."""
