"""SeqIO registrations of specialize: importing this package reads no data."""
