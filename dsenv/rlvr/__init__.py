"""The second family: while a policy is trained by GRPO on questions with checkable answers, choose what it is asked next."""
