//! Training: schedules, optimizer groups, the step, the loop, metrics, checkpoints and exact resume.
