"""Many models a side: epsilon, the F score of the 2023 challenge, U-LiRA."""
