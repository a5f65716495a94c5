"""What every chapter uses: params, files that appear whole, exits, progress, devices."""
