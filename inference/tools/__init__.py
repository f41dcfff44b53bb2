"""What every stage uses: commands, files, versions, and what this process may use of its machine."""
