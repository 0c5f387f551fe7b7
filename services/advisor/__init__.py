"""What this machine is. Placement, memory and cost estimates will live here."""
