"""Files of teacher outputs that were made elsewhere -> our export."""
