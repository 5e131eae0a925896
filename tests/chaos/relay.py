"""A TCP relay that holds back what it passes on: `relay.py PORT DELAY_S`. Connections come to it by an nft redirect.

It connects on to where they were meant to go, with a mark that the redirect leaves alone.
"""
import asyncio
import socket
import struct
import sys

SO_ORIGINAL_DST, MARK = 80, 7


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """In order, each piece `delay` after it came; reading goes on meanwhile."""
    loop, held = asyncio.get_running_loop(), asyncio.Queue(4096)

    async def write() -> None:
        while True:
            due, data = await held.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    writing = asyncio.create_task(write())
    try:
        while data := await reader.read(1 << 16):
            await held.put((loop.time() + delay, data))
    except OSError:
        pass
    await held.put((loop.time() + delay, b""))
    try:
        await writing
    except OSError:
        pass


async def serve(port: int, delay: float) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("socket")
        _, to_port, address = struct.unpack("!HH4s", client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)[:8])
        onward = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        onward.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        onward.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(onward, (socket.inet_ntoa(address), to_port))
        except OSError:
            writer.close()
            return
        there_reader, there_writer = await asyncio.open_connection(sock=onward)
        await asyncio.gather(pass_on(reader, there_writer, delay), pass_on(there_reader, writer, delay))

    server = await asyncio.start_server(accept, "0.0.0.0", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
