"""What leaves the pretraining: backbone files, and what is asked of them."""
