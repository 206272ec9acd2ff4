"""The queue on Redis or Valkey, for any number of processes and machines."""
