"""SeqIO registrations of specialize: importing this package reads no data."""

from tasks import benchmarks as benchmarks
