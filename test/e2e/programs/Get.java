import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Prints a page as HttpClient, as URL and as a plain Socket's peer would have it. */
public class Get {
  public static void main(String[] args) throws Exception {
    URI uri = URI.create(args[0]);
    System.out.print("HttpClient: " + HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofString()).body());
    System.out.print("URL: " + new String(uri.toURL().openStream().readAllBytes()));
    try (Socket socket = new Socket(uri.getHost(), 80)) {
      System.out.println("Socket: " + ((InetSocketAddress) socket.getRemoteSocketAddress()).getPort());
    }
  }
}
