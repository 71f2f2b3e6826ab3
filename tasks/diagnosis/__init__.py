"""What can be wrong with an installation or left over from a crash, and the mend."""
