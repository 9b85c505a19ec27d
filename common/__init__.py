"""What both packages need and neither owns: clear errors, atomic files, image reading."""
