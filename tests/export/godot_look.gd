# SPDX-License-Identifier: Apache-2.0
# What Godot 3 made of the GLB files of a project, as one line of JSON: run by `godot3-server --path PROJECT -s`.
extends SceneTree

var found = {}

func _init():
    for name in ["still", "moving", "plain"]:
        var one = {"nodes": [], "materials": [], "clips": {}, "hulls": 0, "low": null, "high": null, "shown": 0}
        walk(load("res://%s.glb" % name).instance(), one)
        found[name] = one
    print("LOOK ", to_json(found))
    quit()

func size(texture):
    return null if texture == null else [texture.get_width(), texture.get_height()]

func walk(node, one):
    one["nodes"].append([node.get_class(), node.name])
    if node is MeshInstance:
        one["shown"] += 1
        var box = node.get_aabb()
        one["low"] = [box.position.x, box.position.y, box.position.z]
        one["high"] = [box.end.x, box.end.y, box.end.z]
        for i in node.mesh.get_surface_count():
            var m = node.mesh.surface_get_material(i)
            one["materials"].append({
                "albedo": size(m.albedo_texture), "roughness": [size(m.roughness_texture), m.roughness_texture_channel],
                "metallic": [size(m.metallic_texture), m.metallic_texture_channel],
                "normal": size(m.normal_texture) if m.normal_enabled else null,
                "occlusion": [size(m.ao_texture), m.ao_texture_channel] if m.ao_enabled else null,
                "vertex": m.vertex_color_use_as_albedo, "tint": m.albedo_color.to_html()})
    if node is CollisionShape and node.shape is ConvexPolygonShape:
        one["hulls"] += 1
    if node is AnimationPlayer:
        for clip in node.get_animation_list():
            var made = node.get_animation(clip)
            one["clips"][clip] = [made.loop, made.length, made.get_track_count()]
    for child in node.get_children():
        walk(child, one)
