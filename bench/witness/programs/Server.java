// The server of the JDK: Server.java ADDRESS PORT IDLE-SECONDS [CERT KEY].
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;

public class Server {
    static final Pattern DO = Pattern.compile("[?&]do=([a-z]*)(\\d*)");

    public static void main(String[] args) throws Exception {
        // It looks for idle connections at each tick.
        System.setProperty("sun.net.httpserver.idleInterval", args[2]);
        System.setProperty("sun.net.httpserver.clockTick", "20");
        InetSocketAddress address = new InetSocketAddress(args[0], Integer.parseInt(args[1]));
        HttpServer server;
        if (args.length > 3) {
            HttpsServer tls = HttpsServer.create(address, 128);
            tls.setHttpsConfigurator(new HttpsConfigurator(context(args[3], args[4])));
            server = tls;
        } else {
            server = HttpServer.create(address, 128);
        }
        server.createContext("/", Server::handle);
        server.setExecutor(Executors.newCachedThreadPool());
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
        server.start();
    }

    static void log(String what, HttpExchange x) {
        String path = x.getRequestURI().getPath();
        System.out.printf("{\"who\":\"server\",\"what\":\"%s\",\"id\":\"%s\",\"time\":%d.%06d,\"peer\":%d}%n", what,
            path.substring(path.lastIndexOf('/') + 1), System.currentTimeMillis() / 1000, System.currentTimeMillis() % 1000 * 1000, x.getRemoteAddress().getPort());
    }

    static void handle(HttpExchange x) throws IOException {
        log("begin", x);
        Matcher m = DO.matcher(x.getRequestURI().toString());
        String name = m.find() ? m.group(1) : "";
        int number = name.isEmpty() || m.group(2).isEmpty() ? 0 : Integer.parseInt(m.group(2));
        try {
            if (!name.equals("unread") && !name.equals("unreadclose")) {
                x.getRequestBody().readAllBytes();
            }
            act(x, name, number);
            log("end", x);
        } catch (IOException e) {
            log("abort", x);
        } finally {
            x.close();
        }
    }

    static void act(HttpExchange x, String name, int number) throws IOException {
        switch (name) {
            case "unread" -> {
                x.getResponseHeaders().set("Connection", "close");
                x.sendResponseHeaders(413, -1);
            }
            case "crash", "unreadclose" -> throw new IOException("on purpose");
            case "trunc", "truncchunk" -> {
                x.sendResponseHeaders(200, name.equals("trunc") ? 10000 : 0);
                x.getResponseBody().write("t".repeat(8000).getBytes());
                x.getResponseBody().flush();
                pause(30);
                throw new IOException("on purpose");
            }
            case "big" -> {
                x.sendResponseHeaders(200, 0);
                try (OutputStream out = x.getResponseBody()) {
                    byte[] piece = "y".repeat(number > 0 ? number : 5000).getBytes();
                    for (int i = 0; i < 20; i++) {
                        out.write(piece);
                        out.flush();
                        pause(15);
                    }
                }
            }
            case "closeme" -> {
                x.getResponseHeaders().set("Connection", "close");
                answer(x, "bye\n");
            }
            case "slow" -> {
                pause(number);
                answer(x, "slow\n");
            }
            default -> answer(x, "ok\n");
        }
    }

    static void answer(HttpExchange x, String text) throws IOException {
        x.sendResponseHeaders(200, text.length());
        try (OutputStream out = x.getResponseBody()) {
            out.write(text.getBytes());
        }
    }

    static void pause(int ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException e) {
            throw new RuntimeException(e);
        }
    }

    static SSLContext context(String cert, String key) throws Exception {
        String pem = Files.readString(Path.of(key)).replaceAll("-----[^-]*-----|\\s", "");
        PrivateKey k = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
        Certificate c = CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(Files.readAllBytes(Path.of(cert))));
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        store.setKeyEntry("h", k, new char[0], new Certificate[] {c});
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(store, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        return context;
    }
}
