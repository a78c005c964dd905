"""When things happen: schedules and sensors.

They request runs; they compute nothing and change nothing themselves.
"""
