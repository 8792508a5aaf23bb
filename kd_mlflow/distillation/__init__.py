"""What distillation is made of: teachers, students, and the evidence of a comparison."""
