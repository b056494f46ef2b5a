"""What publishing on the Hub needs besides the upload itself."""
