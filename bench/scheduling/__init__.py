"""What schedules cost: ours from beat over the relay to the queue, beside stock RedBeat."""
