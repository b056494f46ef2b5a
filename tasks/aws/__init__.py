"""What everything that calls AWS shares: errors and roles."""
