"""`soscope doctor`: looks at sections before training and says what is wrong with them."""
