"""What every lab and the capstone share: options, results, data, exercises, processes."""
