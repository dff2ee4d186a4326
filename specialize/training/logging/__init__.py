"""What a run reports: step lines, metrics files, TensorBoard, throughput."""
