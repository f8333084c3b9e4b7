"""Networks for other programs, and in their formats; a library is imported only when used."""
