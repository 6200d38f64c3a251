"""What a run has trained, as folders that PEFT and transformers load."""
