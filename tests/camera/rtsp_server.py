"""An RTSP camera on loopback: red pictures, 20 a second. Run by the system's Python; prints its port."""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

PIPELINE = (
    "( videotestsrc is-live=true pattern=red ! video/x-raw,width=320,height=240,framerate=20/1 "
    "! vp8enc deadline=1 keyframe-max-dist=10 ! rtpvp8pay name=pay0 )"
)

Gst.init(None)
if not all(Gst.ElementFactory.find(name) for name in ("videotestsrc", "vp8enc", "rtpvp8pay")):
    sys.exit("GStreamer lacks plugins: base and good are needed")
if sys.argv[1:] == ["--check"]:
    sys.exit(0)
server = GstRtspServer.RTSPServer.new()
server.set_address("127.0.0.1")
server.set_service("0")
factory = GstRtspServer.RTSPMediaFactory.new()
factory.set_launch(PIPELINE)
factory.set_shared(True)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
sys.stdout.write(f"{server.get_bound_port()}\n")
sys.stdout.flush()
GLib.MainLoop().run()
