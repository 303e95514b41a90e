"""Use cases of jobs: define, change, restore revisions, and list the tasks of workers."""
