"""What this computer is: devices, memory, and what limits them."""
