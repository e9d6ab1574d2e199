# SPDX-License-Identifier: Apache-2.0
# Godot 3 draws model.glb from AZIMUTH degrees into shot.png; benchmarks/opened.py makes the project around it.
extends Spatial
func _ready():
	add_child(load("res://model.glb").instance())
	var eye = Vector3(sin(deg2rad(AZIMUTH)) * cos(deg2rad(20)), sin(deg2rad(20)), cos(deg2rad(AZIMUTH)) * cos(deg2rad(20))) * 3.2
	var camera = Camera.new()
	camera.fov = 40
	add_child(camera)
	camera.look_at_from_position(eye, Vector3(0, 0, 0), Vector3(0, 1, 0))
	camera.current = true
	var sun = DirectionalLight.new()
	add_child(sun)
	sun.look_at_from_position(Vector3(-1, 1.5, 1.2), Vector3(0, 0, 0), Vector3(0, 1, 0))
	sun.light_energy = 1.1
	var world = WorldEnvironment.new()
	world.environment = Environment.new()
	world.environment.background_mode = Environment.BG_COLOR
	world.environment.background_color = Color(0.92, 0.92, 0.92)
	world.environment.ambient_light_color = Color(1, 1, 1)
	world.environment.ambient_light_energy = 0.5
	add_child(world)
	for i in range(4):
		yield(get_tree(), "idle_frame")
	var image = get_viewport().get_texture().get_data()
	image.flip_y()
	image.save_png("res://shot.png")
	get_tree().quit()
