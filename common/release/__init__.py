"""Make the repository a learner gets, and the files a grading service runs."""
