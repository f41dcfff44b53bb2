"""Images: PNG, JPEG and WebP files, or npy arrays of uint8, become rows of uint8."""
