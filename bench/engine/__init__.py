"""What limits and order cost, on the whole house."""
